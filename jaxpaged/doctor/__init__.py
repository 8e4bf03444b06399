"""What `jaxpaged doctor` looks at: facts are gathered here, judged there, and only a child process starts devices."""
