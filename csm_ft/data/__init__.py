"""What lies in a token file, and how it becomes batches; knows no model family."""
