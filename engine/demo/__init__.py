"""The whole thing on sample traffic: shops and their people (`shops.yaml`), their events, and one run of them."""
