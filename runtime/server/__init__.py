"""The half that receives the packets of many rigs and has them decoded."""
