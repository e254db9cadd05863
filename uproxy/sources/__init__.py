"""Where objects come from: manifests, flags, DNS. Bytes in, model events out."""
