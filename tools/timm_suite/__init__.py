"""timm's own model tests, and checks beyond them, on every pcl_* model."""
