"""How the harness talks into a guest: its console, its agent, and SSH."""
