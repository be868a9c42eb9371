"""What BullMQ's jobs, flows, schedulers and events are. Pure: no I/O, no logging; time arrives as an argument."""
