package main

import "os"

// lockDemo makes no lock here, so that tidyDemos could not tell who is gone.
func lockDemo(string) (*os.File, error) { return nil, nil }

func tidyDemos() {}
