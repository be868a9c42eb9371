"""What the queues door answers and takes, described for the OpenAPI document."""
