"""Rules of the queues door: worker documents, what workers are sent, and what their answers mean. Pure."""
