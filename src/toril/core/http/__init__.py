"""HTTP's own vocabulary: headers, paths, URLs, retry hints, signatures, streamed bodies. Pure."""
