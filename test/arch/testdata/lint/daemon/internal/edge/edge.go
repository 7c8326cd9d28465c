// Package edge does what only main may do.
package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"runtime"

	log "github.com/sirupsen/logrus"
)

// Process touches the process as a whole.
func Process() error {
	fmt.Println("x")                      // want "only main prints"
	fmt.Printf("x")                       // want "only main prints"
	println("x")                          // want "the builtins are for debugging"
	if err := os.Chdir("/"); err != nil { // want "changes the whole process"
		os.Exit(1) // want "only main exits"
	}
	return os.Setenv("X", "y") // want "changes the whole process"
}

// Log uses the global logger, and a logger that exits.
func Log(own *log.Logger) {
	log.Info("x")                     // want "there is no global one"
	log.WithField("a", 1).Error("x")  // want "there is no global one"
	log.SetLevel(log.DebugLevel)      // want "there is no global one"
	own.Fatal("x")                    // want "log or return, never both"
	own.WithField("a", 1).Fatalf("x") // want "log or return, never both"
	own.WithField("a", 1).Warn("allowed")
	log.New().Info("allowed")
}

// Wait has no bound.
func Wait() error {
	ctx := context.Background()          // want "take the caller's context"
	_ = exec.Command("true")             // want "use exec.CommandContext"
	_ = exec.CommandContext(ctx, "true") // allowed
	_ = http.DefaultClient               // want "has no time limit"
	return http.ListenAndServe("", nil)  // want "has no time limit"
}

// Compare uses what does not see through wrapping.
func Compare(err error) bool {
	runtime.SetFinalizer(&err, nil) // want "closing is explicit"
	return os.IsNotExist(err) ||    // want "does not look through wrapped errors"
		reflect.DeepEqual(err, nil) || // want "use cmp.Diff"
		errors.Is(err, os.ErrNotExist)
}
