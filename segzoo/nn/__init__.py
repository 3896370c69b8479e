"""What decoders are built from: layers that know no encoder and no architecture."""
