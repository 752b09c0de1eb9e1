"""Models from elsewhere and for elsewhere: the only room that knows foreign names."""
