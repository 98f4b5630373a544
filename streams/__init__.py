"""What happened: wire events, topics, the producer client, sources and the Faust stages."""
