"""What a component is made of: weights and how they are stored, repeated blocks, LoRAs."""
