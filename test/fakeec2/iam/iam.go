// Package iam decides about requests by an IAM policy document, for tests. It knows the parts of the policy language that this repository's policies use.
// Parse refuses each element, operator and condition key that it does not know, so that none is ignored.
package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Policy is a policy document. "Grammar of the IAM JSON policy language" and "IAM JSON policy elements" are its sources.
type Policy struct{ statements []statement }

type statement struct {
	Sid       string
	Effect    string
	Action    list
	Resource  list
	Condition map[string]map[string]list
}

// list is a string or a list of strings.
type list []string

// UnmarshalJSON also takes a boolean, as a policy may have for Null.
func (l *list) UnmarshalJSON(data []byte) error {
	var one string
	if string(data) == "true" || string(data) == "false" {
		*l = list{string(data)}
		return nil
	}
	if err := json.Unmarshal(data, &one); err == nil {
		*l = list{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// Parse reads a policy document.
func Parse(document []byte) (*Policy, error) {
	var d struct {
		Version, ID string
		Statement   []statement
	}
	dec := json.NewDecoder(bytes.NewReader(document))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("decode the policy: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is something after the policy")
	}
	if d.Version != "2012-10-17" {
		return nil, fmt.Errorf("version %q", d.Version)
	}
	for i, s := range d.Statement {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("statement %d (%s): %w", i, s.Sid, err)
		}
	}
	return &Policy{d.Statement}, nil
}

func (s statement) check() error {
	var errs []error
	if s.Effect != "Allow" && s.Effect != "Deny" {
		errs = append(errs, fmt.Errorf("effect %q", s.Effect))
	}
	if len(s.Action) == 0 || len(s.Resource) == 0 {
		errs = append(errs, errors.New("no action or no resource"))
	}
	for _, a := range s.Action {
		if service, name, ok := strings.Cut(a, ":"); a != "*" && (!ok || service == "" || name == "") {
			errs = append(errs, fmt.Errorf("action %q", a))
		}
	}
	for _, r := range s.Resource {
		if r != "*" && (!strings.HasPrefix(r, "arn:") || strings.Count(r, ":") < 5) {
			errs = append(errs, fmt.Errorf("resource %q", r))
		}
		errs = append(errs, noVariable(r))
	}
	for name, conditions := range s.Condition {
		op, ok := operatorOf(name)
		if !ok {
			errs = append(errs, fmt.Errorf("operator %q", name))
		}
		for key, values := range conditions {
			if !known(key) {
				errs = append(errs, fmt.Errorf("condition key %q", key))
			}
			for _, v := range values {
				if op.base == "Null" && v != "true" && v != "false" {
					errs = append(errs, fmt.Errorf("null %q", v))
				}
				errs = append(errs, noVariable(v))
			}
			if len(values) == 0 {
				errs = append(errs, fmt.Errorf("no value for %q", key))
			}
		}
	}
	return errors.Join(errs...)
}

// noVariable refuses policy variables, which the package does not know.
func noVariable(v string) error {
	if strings.Contains(v, "${") {
		return fmt.Errorf("policy variable in %q", v)
	}
	return nil
}

// operator is a condition operator ("IAM JSON policy elements: Condition operators").
type operator struct {
	base     string
	ifExists bool   // an absent key fulfils it
	set      string // ForAllValues or ForAnyValue
}

func operatorOf(name string) (operator, bool) {
	var o operator
	if set, rest, ok := strings.Cut(name, ":"); ok {
		o.set, name = set, rest
	}
	o.base, o.ifExists = strings.CutSuffix(name, "IfExists")
	bases := []string{"StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "ArnEquals", "ArnLike", "Null"}
	sets := []string{"", "ForAllValues", "ForAnyValue"}
	return o, slices.Contains(bases, o.base) && slices.Contains(sets, o.set) && (o.base != "Null" || !o.ifExists && o.set == "")
}

// known says whether EC2 has a condition key ("Condition keys for Amazon EC2", service authorization reference), as far as the fake fills it.
func known(key string) bool {
	for _, prefix := range []string{"aws:RequestTag/", "aws:ResourceTag/", "ec2:ResourceTag/"} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return name != ""
		}
	}
	return slices.Contains([]string{
		"aws:TagKeys", "aws:RequestedRegion", "ec2:CreateAction", "ec2:Vpc", "ec2:Subnet", "ec2:SubnetID", "ec2:Region", "ec2:AvailabilityZone",
		"ec2:InstanceType", "ec2:InstanceID", "ec2:NetworkInterfaceID", "ec2:SecurityGroupID",
	}, key)
}

// Statements is the number of statements.
func (p *Policy) Statements() int { return len(p.statements) }

// Without returns the policy without its i-th statement. A test shows with it that each statement is needed.
func (p *Policy) Without(i int) *Policy {
	return &Policy{slices.Delete(slices.Clone(p.statements), i, i+1)}
}

// Request is an action on a resource. Keys are the condition keys that the request has; only aws:TagKeys may have several values, or none.
type Request struct {
	Action, Resource string
	Keys             map[string][]string
}

// Allowed is the decision of a policy that allows a request.
const Allowed = ""

// Decide returns Allowed, or why the request is not allowed. A Deny that applies wins.
func (p *Policy) Decide(r Request) string {
	allowed := false
	for _, s := range p.statements {
		if !s.applies(r) {
			continue
		}
		if s.Effect == "Deny" {
			return "with an explicit deny in an identity-based policy"
		}
		allowed = true
	}
	if !allowed {
		return "because no identity-based policy allows the " + r.Action + " action"
	}
	return Allowed
}

func (s statement) applies(r Request) bool {
	// Actions are not case-sensitive ("IAM JSON policy elements: Action"), resources are.
	action := func(pattern string) bool { return like(strings.ToLower(pattern), strings.ToLower(r.Action)) }
	if !slices.ContainsFunc(s.Action, action) || !slices.ContainsFunc(s.Resource, func(pattern string) bool { return arnLike(pattern, r.Resource) }) {
		return false
	}
	for name, conditions := range s.Condition {
		o, _ := operatorOf(name) // checked by Parse
		for key, wanted := range conditions {
			if !o.holds(wanted, valuesOf(r, key)) {
				return false
			}
		}
	}
	return true
}

// valuesOf looks a key up: key names are not case-sensitive, tag keys in them are neither ("Controlling access using tags").
func valuesOf(r Request, key string) []string {
	if v, ok := r.Keys[key]; ok {
		return v
	}
	for k, v := range r.Keys {
		if strings.EqualFold(k, key) {
			return v
		}
	}
	return nil
}

func (o operator) holds(wanted, have []string) bool {
	if o.base == "Null" {
		return (len(have) == 0) == (wanted[0] == "true")
	}
	negated := strings.Contains(o.base, "Not")
	if len(have) == 0 { // ForAllValues is true without a key; a negated operator too ("Condition operators")
		return o.ifExists || o.set == "ForAllValues" || negated && o.set == ""
	}
	one := func(v string) bool {
		found := slices.ContainsFunc(wanted, func(w string) bool {
			switch {
			case strings.HasPrefix(o.base, "Arn"): // ArnEquals and ArnLike behave the same
				return arnLike(w, v)
			case strings.HasSuffix(o.base, "Like"):
				return like(w, v)
			}
			return w == v
		})
		return found != negated
	}
	if o.set == "ForAllValues" {
		return !slices.ContainsFunc(have, func(v string) bool { return !one(v) })
	}
	return slices.ContainsFunc(have, one)
}

// arnLike compares the six parts of an ARN one by one: a wildcard does not reach over a colon among the first five.
func arnLike(pattern, arn string) bool {
	if pattern == "*" {
		return true
	}
	p, a := strings.SplitN(pattern, ":", 6), strings.SplitN(arn, ":", 6)
	if len(p) != 6 || len(a) != 6 {
		return false
	}
	for i := range p {
		if !like(p[i], a[i]) {
			return false
		}
	}
	return true
}

// like knows * and ?.
func like(pattern, v string) bool {
	for pattern != "" {
		if pattern[0] == '*' {
			for i := 0; i <= len(v); i++ {
				if like(pattern[1:], v[i:]) {
					return true
				}
			}
			return false
		}
		if v == "" || pattern[0] != '?' && pattern[0] != v[0] {
			return false
		}
		pattern, v = pattern[1:], v[1:]
	}
	return v == ""
}
