"""Events to operators, as deliveries to a target like any other."""
