"""Messages of the protocol, bounded answers, and why a job failed: functions without I/O."""
