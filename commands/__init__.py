"""What train.py and sample.py are made of."""
