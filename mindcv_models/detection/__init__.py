"""Detection: from COCO folders to boxes. Boxes are ``(x1, y1, x2, y2)`` in pixels, float32, everywhere in here."""
