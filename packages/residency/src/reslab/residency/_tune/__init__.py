"""The choice of a plan: the plan that keeps most and fits, for one card or many, and the changes that would help."""
