"""Models of a component: its weights and their storage, its repeated blocks, its LoRAs."""
