"""What finished runs say: tables over seeds, paired differences, documents, confusion matrices, costs."""
