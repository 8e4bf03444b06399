"""What the server counts and tells: /metrics, the status line, load reports, events of the prefix cache."""
