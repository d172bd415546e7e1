"""A film, from the bytes of its file to a square uint8 image. In its order: decode, header, codecs, display, resize."""
