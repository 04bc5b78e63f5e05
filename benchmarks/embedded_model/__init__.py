"""How the embedded model's trained part was made, and how well it does."""
