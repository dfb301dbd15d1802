"""What finished runs say: tables over seeds, paired differences, documents, what is taken for what, what methods cost."""
