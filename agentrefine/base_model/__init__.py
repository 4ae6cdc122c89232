"""The model that is tuned: made here or taken from elsewhere, and checked before anything is trained."""
