package edge

import (
	"context"
	"fmt"
	"os/exec"
	"reflect"
	"testing"
)

func TestNow(t *testing.T) {
	fmt.Println(exec.Command("true"), context.Background())
	if !reflect.DeepEqual(Now(), Now()) { // want "use cmp.Diff"
		t.Error("the clock moved")
	}
}
