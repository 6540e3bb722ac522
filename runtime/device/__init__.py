"""The half that runs beside the cameras: encodes, sends, adapts."""
