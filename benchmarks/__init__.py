"""What this project claims, as scripts that anyone can run."""
