"""What people look at: tables, pictures, pages, and Weights & Biases."""
