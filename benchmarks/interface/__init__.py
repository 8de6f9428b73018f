"""What Python users call: models, images and attacks in memory, without a checkpoint or a store."""
