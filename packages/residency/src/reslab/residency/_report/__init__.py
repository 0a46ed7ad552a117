"""Charts, and the frames that compare bounds with measurement and recipes with each other."""
