package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// markBegin begins the first line of a file that multi-enid has written. The hash of the
// rest follows; it shows whether somebody has edited the file.
const markBegin = "# Written by multi-enid, which removes it again unless somebody edits it. sha256:"

// Marked returns the content with a first line that marks the file as ours.
func (f File) Marked() string { return markBegin + hash(f.Content) + "\n" + f.Content }

// Ours says whether multi-enid, of any version, has written a file, and whether the file is unchanged since.
func Ours(content string) (ours, unchanged bool) {
	first, rest, _ := strings.Cut(content, "\n")
	sum, ours := strings.CutPrefix(first, markBegin)
	return ours, ours && sum == hash(rest)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
