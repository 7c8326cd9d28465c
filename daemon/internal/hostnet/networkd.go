package hostnet

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Link holds the properties of a link that the files can match.
type Link struct {
	Name     string
	AltNames []string
	// MAC is in lower case, with colons.
	MAC    string
	Driver string
}

// Verdict says whether a manager's files make it leave a link alone. The zero value: they do not.
type Verdict struct {
	// Unmanaged: the manager leaves the link alone, because of File. File is "" if no file says anything about the link.
	Unmanaged bool
	File      string
	// Unsure lists files that say Unmanaged and may match the link: they have conditions that this package cannot evaluate.
	Unsure []string
}

// ErrNotVisible says that the tree does not show the host's files.
var ErrNotVisible = errors.New("the host's files are not visible here")

// networkFolders are networkd's, the strongest first (systemd.network(5)).
func networkFolders(sub string) []string {
	return []string{"etc/systemd/" + sub, "run/systemd/" + sub, "usr/local/lib/systemd/" + sub, "usr/lib/systemd/" + sub}
}

func visible(host fs.FS, folder string) bool {
	info, err := fs.Stat(host, folder)
	return err == nil && info.IsDir()
}

// NetworkdVerdict says whether networkd's files leave the link alone. Folders that are not visible count as empty, but one of them must be.
func NetworkdVerdict(host fs.FS, l Link) (Verdict, error) {
	if !visible(host, "etc/systemd") && !visible(host, "usr/lib/systemd") {
		return Verdict{}, ErrNotVisible
	}
	files, err := read(host, ".network", networkFolders("network")...)
	if err != nil {
		return Verdict{}, err
	}
	var v Verdict
	for _, f := range files {
		more, err := read(host, ".conf", networkFolders("network/"+path.Base(f.path)+".d")...)
		if err != nil {
			return Verdict{}, err
		}
		for _, d := range more {
			f.values = append(f.values, d.values...)
		}
		unmanaged, _ := boolean(last(f.values, "Link", "Unmanaged"))
		switch matches(f.values, l) {
		case yes:
			v.Unmanaged, v.File = unmanaged, f.path
			return v, nil // networkd takes the first
		case unsure:
			if unmanaged {
				v.Unsure = append(v.Unsure, f.path)
			}
		case no:
		}
	}
	return v, nil
}

type answer int

const (
	no answer = iota
	unsure
	yes
)

// matches says whether a file matches a link, as networkd does it (net_match_config of
// systemd's src/shared/net-condition.c): every condition must hold, and there must be one.
func matches(all []assignment, l Link) answer {
	result, conditions := yes, 0
	for _, key := range matchKeys(all) {
		list := values(all, "Match", key)
		if len(list) == 0 {
			continue
		}
		conditions++
		result = min(result, matchKey(key, list, l))
	}
	if conditions == 0 {
		return no
	}
	return result
}

func matchKeys(all []assignment) (keys []string) {
	for _, a := range all {
		if a.section == "Match" && !slices.Contains(keys, a.key) {
			keys = append(keys, a.key)
		}
	}
	return keys
}

func matchKey(key string, list []string, l Link) answer {
	words, plain := split(list)
	if !plain {
		return unsure
	}
	switch key {
	case "Name":
		// One of the names is enough, for a negative list as well.
		result := matchWords(words, l.Name)
		for _, name := range l.AltNames {
			result = max(result, matchWords(words, name))
		}
		return result
	case "Driver":
		return matchWords(words, l.Driver)
	case "Type":
		return matchWords(words, "ether")
	case "MACAddress", "PermanentMACAddress":
		for _, w := range words {
			if strings.EqualFold(strings.ReplaceAll(w, "-", ":"), l.MAC) {
				return yes
			}
		}
		return no
	case "Property":
		return matchProperties(words, l)
	}
	return unsure
}

// matchProperties: all must hold (net_condition_test_property). It knows only the properties that follow from the link itself.
func matchProperties(words []string, l Link) answer {
	result := yes
	for _, w := range words {
		w, not := strings.CutPrefix(w, "!")
		key, pattern, found := strings.Cut(w, "=")
		is, known := map[string]string{"INTERFACE": l.Name, "ID_NET_DRIVER": l.Driver}[key]
		if !found || !known {
			result = min(result, unsure)
			continue
		}
		holds := glob(pattern, is)
		if not && holds != unsure {
			holds = yes - holds
		}
		result = min(result, holds)
	}
	return result
}

// matchWords is net_condition_test_strv: a negative word that matches means no. Otherwise a positive word must match, if there are any.
func matchWords(words []string, s string) answer {
	result, positive := no, false
	for _, w := range words {
		w, not := strings.CutPrefix(w, "!")
		positive = positive || !not
		hit := glob(w, s)
		switch {
		case not && hit == yes:
			return no
		case not && hit == unsure:
			return unsure
		case !not:
			result = max(result, hit)
		}
	}
	if !positive {
		return yes
	}
	return result
}

// split takes assignments apart into words. A "!" before the first word of an assignment applies to each of its words. plain is false if
// there are quotes, escapes or specifiers, which split does not interpret.
func split(list []string) (words []string, plain bool) {
	for _, value := range list {
		if strings.ContainsAny(value, `"'\%`) {
			return nil, false
		}
		value, not := strings.CutPrefix(value, "!")
		for _, w := range strings.Fields(value) {
			if not {
				w = "!" + w
			}
			words = append(words, w)
		}
	}
	return words, true
}

// glob is fnmatch(3) for names, which have no slash.
func glob(pattern, s string) answer {
	if strings.Contains(pattern, "[!") {
		pattern = strings.ReplaceAll(pattern, "[!", "[^")
	}
	hit, err := path.Match(pattern, s)
	switch {
	case err != nil:
		return unsure
	case hit:
		return yes
	}
	return no
}

// ForeignManaged returns the keys of networkd.conf that are on and let networkd remove rules and routes that others have made.
func ForeignManaged(host fs.FS) ([]string, error) {
	if !visible(host, "etc/systemd") {
		return nil, ErrNotVisible
	}
	var all []assignment
	for _, name := range networkFolders("networkd.conf") { // the first that is there
		if _, err := fs.Stat(host, name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		f, err := readFile(host, name)
		if err != nil {
			return nil, err
		}
		all = f.values
		break
	}
	files, err := read(host, ".conf", networkFolders("networkd.conf.d")...)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		all = append(all, f.values...)
	}
	var on []string
	for _, key := range []string{"ManageForeignRoutingPolicyRules", "ManageForeignRoutes"} {
		value := last(all, "Network", key)
		if value == "" && !visible(host, "usr/lib/systemd") {
			return nil, ErrNotVisible // an image may have set it there, as Bottlerocket does
		}
		if is, known := boolean(value); is || !known { // the default is yes
			on = append(on, key)
		}
	}
	return on, nil
}
