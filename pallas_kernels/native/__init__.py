"""C++ for CPUs behind the ops, compiled on the machine it runs on: optional, see `library.obstacle`."""
