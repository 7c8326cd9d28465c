// Package imports imports what nobody may, and holds a function that is too long.
package imports

import (
	_ "io/ioutil"    // want "deprecated; use os and io"
	_ "log"          // want "logs are structured"
	_ "log/slog"     // allowed by this rule
	_ "math/rand"    // want "use math/rand/v2"
	_ "math/rand/v2" // allowed

	_ "github.com/golang/mock"      // want "write a stateful fake"
	_ "github.com/onsi/gomega"      // want "use plain testing"
	_ "github.com/pkg/errors"       // want "wrap with fmt.Errorf"
	_ "github.com/stretchr/testify" // want "use plain testing"
	_ "go.uber.org/mock"            // want "write a stateful fake"
)

// Long is longer than a screen.
func Long() []int { // want "Function 'Long' is too long"
	return []int{
		1,
		2,
		3,
		4,
		5,
		6,
		7,
		8,
		9,
		10,
		11,
		12,
		13,
		14,
		15,
		16,
		17,
		18,
		19,
		20,
		21,
		22,
		23,
		24,
		25,
		26,
		27,
		28,
		29,
		30,
		31,
		32,
		33,
		34,
		35,
		36,
		37,
		38,
		39,
		40,
		41,
		42,
		43,
		44,
		45,
		46,
		47,
		48,
		49,
		50,
		51,
		52,
		53,
		54,
		55,
		56,
		57,
		58,
		59,
		60,
		61,
		62,
		63,
		64,
		65,
		66,
		67,
		68,
		69,
		70,
		71,
		72,
		73,
		74,
		75,
		76,
		77,
		78,
		79,
		80,
	}
}

// Busy has too many statements.
func Busy() (n int) { // want "has too many statements"
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	n++
	return n
}
