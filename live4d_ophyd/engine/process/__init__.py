"""The engine as a process of its own: its server and worker, the client in the session, what they say to each other."""
