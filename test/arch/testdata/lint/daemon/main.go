// Multi-enid may do what only main may do.
package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

func main() {
	fmt.Println(context.Background(), time.Now())
	os.Exit(1)
}
