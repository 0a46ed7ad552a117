"""What a rehearsed run takes on a device, before it runs: time by stage, and each memory."""
