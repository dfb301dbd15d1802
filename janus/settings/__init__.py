"""Settings: what all of them share, those of each method, and how names on a command line find them."""
