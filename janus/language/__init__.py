"""The same three parts on a causal language model (lesson 10): texts, models without a download, trials."""
