"""Images to embeddings: the encoder, `FaceEmbedder`, tables and the jobs that write them."""
