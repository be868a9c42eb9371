"""Rules of the async proxy: matching upstreams, recorded requests and responses, caching, callbacks. Pure."""
