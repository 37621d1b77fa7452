"""What the layers of a decoder see while slates stream through. Knows no method."""
