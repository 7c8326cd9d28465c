package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// markBegin begins the first line of a file that multi-enid has written. The hash of the
// rest follows, by which an edited file is told.
const markBegin = "# Written by multi-enid, which removes it again unless somebody edits it. sha256:"

// Marked is the content as multi-enid writes it, with a first line that says so.
func (f File) Marked() string { return markBegin + hash(f.Content) + "\n" + f.Content }

// Ours says whether a file has been written by multi-enid, whatever version, and whether
// it is as it was.
func Ours(content string) (ours, unchanged bool) {
	first, rest, _ := strings.Cut(content, "\n")
	sum, ours := strings.CutPrefix(first, markBegin)
	return ours, ours && sum == hash(rest)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
