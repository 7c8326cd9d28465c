// Command pause does nothing until it is told to end. It is the program of the
// sandbox image, and of pods that only have to be there.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
