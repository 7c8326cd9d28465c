// Package fakeec2 is the part of Amazon EC2 for addresses of network interfaces, for tests: the Query protocol over
// HTTP with answers in XML, with changing state, pages, eventual consistency, throttling, the rights of a role, and
// answers of proxies.
//
// It is strict. It refuses and reports a call without a signature, and an unknown action or parameter, as EC2
// refuses them: a client cannot come to rely on an answer that was never modelled. Errors have the codes of "Error
// codes for the Amazon EC2 API".
package fakeec2

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const version = "2016-11-15"

// ENI is a network interface. Addresses begin with the primary one.
type ENI struct {
	ID, MAC, SubnetID string
	// Instance and DeviceIndex describe its attachment; Instance is "" without one.
	Instance    string
	DeviceIndex int
	Tags        map[string]string
	IPv4, IPv6  []netip.Addr
	Prefixes    []netip.Prefix
}

func (e ENI) clone() ENI {
	e.IPv4, e.IPv6, e.Prefixes = slices.Clone(e.IPv4), slices.Clone(e.IPv6), slices.Clone(e.Prefixes)
	return e
}

// Subnet is the source of addresses. The first four and the last of IPv4 are the VPC's.
type Subnet struct {
	ID         string
	IPv4, IPv6 netip.Prefix
}

// Config is a Server's initial state.
type Config struct {
	Subnets []Subnet
	ENIs    []ENI
	// PerENI limits the addresses of each family of an ENI; a prefix counts as one. 0 is no limit.
	PerENI int
	// May says whether the caller's role may call an action, on an ENI if the action is about one; nil
	// permits all. It stands for a policy with a condition on aws:ResourceTag.
	May func(action string, on ENI) bool
	// Key and Region must be in the calls' signatures; "" permits any.
	Key, Region string
	// DryRun makes actions that change an ENI answer dry runs. In the API's model none of them has the
	// parameter DryRun ("API reference", and service/ec2 of aws-sdk-go-v2), so it is refused by default.
	DryRun bool
	// ListAll makes an Assign list the primary address and all secondary addresses and prefixes of the ENI, instead of
	// the new ones. The reference says only that they "are assigned to the network interface".
	ListAll bool
	// Shuffle reorders the items of each list (rand.Shuffle); nil does not. The reference promises no order.
	Shuffle func(n int, swap func(i, j int))
	// Slow ends the waiting of the fault Slow; with nil only the client does.
	Slow <-chan struct{}
	// Lag is how long Describe hides a change.
	Lag time.Duration
	// Now is the clock for lags; nil is time.Now.
	Now func() time.Time
	// OnChange is called with a changed ENI, before the caller has its answer. It must not call the Server.
	OnChange func(ENI)
	// OnUnknown is called for unknown requests. It must not call the Server.
	OnUnknown func(request string)
}

// Server is the service: an http.Handler, safe for concurrent use.
type Server struct {
	cfg Config

	mu     sync.Mutex
	enis   map[string]*record
	faults map[string][]string
	calls  []string
	dry    bool // the call at hand is a dry run
}

// record is an ENI, and Describe's view of it before the last changes.
type record struct {
	ENI
	before []past
}

type past struct {
	until time.Time
	eni   ENI
}

// New returns a Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, enis: map[string]*record{}, faults: map[string][]string{}}
	for _, e := range cfg.ENIs {
		s.enis[e.ID] = &record{ENI: e.clone()}
	}
	return s
}

// Fail answers the next calls of an action with these error codes or faults, one after the other.
func (s *Server) Fail(action string, codes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[action] = append(s.faults[action], codes...)
}

// Pending says whether an action has faults left.
func (s *Server) Pending(action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults[action]) > 0
}

// Change edits an ENI as another client would, visible at once.
func (s *Server) Change(id string, edit func(*ENI)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enis[id].before = nil
	s.edit(s.enis[id], edit)
}

func (s *Server) edit(r *record, edit func(*ENI)) {
	edit(&r.ENI)
	if s.cfg.OnChange != nil {
		s.cfg.OnChange(r.clone())
	}
}

// ENI returns an ENI's present state.
func (s *Server) ENI(id string) ENI {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enis[id].clone()
}

// Calls returns the actions since the last Calls, with their ENI.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// signature matches Signature Version 4 for this service; its groups are access key and region.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([a-z0-9-]+)/ec2/aws4_request, ` +
	`SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, Signature=[0-9a-f]{64}$`)

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	form, err := url.ParseQuery(string(body))
	action := form.Get("Action")
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/" {
		s.unknown(r.Method + " " + r.URL.String())
		s.answerError(w, refuse("InvalidRequest", "The request received was invalid."))
		return
	}
	if by := signature.FindStringSubmatch(r.Header.Get("Authorization")); by == nil || s.cfg.Key != "" && by[1] != s.cfg.Key || s.cfg.Region != "" &&
		by[2] != s.cfg.Region {
		s.answerError(w, refuse("AuthFailure", "AWS was not able to validate the provided access credentials"))
		return
	}
	fault := s.begin(action, form.Get("NetworkInterfaceId"))
	if fault == Slow {
		select {
		case <-s.cfg.Slow:
			fault = ""
		case <-r.Context().Done():
			return
		}
	}
	if instead(w, fault) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fault != "" && fault != Lose && fault != Truncate {
		s.answerError(w, refuse(fault, "as told to"))
		return
	}
	result, err := s.call(action, params(form))
	if fault == Lose {
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		s.answerError(w, err)
		return
	}
	answer := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
		`<%[1]sResponse xmlns="http://ec2.amazonaws.com/doc/%[2]s/"><requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>%[3]s</%[1]sResponse>`, action,
		version, result)
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	if fault == Truncate {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		answer = answer[:len(answer)*2/3]
	}
	fmt.Fprint(w, answer)
}

func (s *Server) begin(action, eni string) (fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, strings.TrimSpace(action+" "+eni))
	if q := s.faults[action]; len(q) > 0 {
		fault, s.faults[action] = q[0], q[1:]
	}
	return fault
}

func (s *Server) answerError(w http.ResponseWriter, err error) {
	e, ok := err.(*apiError) //nolint:errorlint // made by refuse
	if !ok {
		e = &apiError{http.StatusInternalServerError, "InternalError", err.Error()}
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(e.status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
		`<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>ea966190-f9aa-478e-9ede-example</RequestID></Response>`, e.code,
		text(e.message))
}

func (s *Server) unknown(request string) {
	if s.cfg.OnUnknown != nil {
		s.cfg.OnUnknown(request)
	}
}

// params are a call's parameters. The handler must take each of them.
type params map[string][]string

// Parameters lists an action's parameters without Action and Version; a list is "Name.N". Sources: the actions' pages
// of the API reference (API_DescribeNetworkInterfaces.html and so on); a test compares them with the SDK's model.
func Parameters(action string) []string {
	return map[string][]string{
		"DescribeNetworkInterfaces":  {"MaxResults", "NextToken", "DryRun", "Filter.N.Name", "Filter.N.Value.N"},
		"AssignPrivateIpAddresses":   {"NetworkInterfaceId", "SecondaryPrivateIpAddressCount", "PrivateIpAddress.N", "Ipv4PrefixCount"},
		"UnassignPrivateIpAddresses": {"NetworkInterfaceId", "PrivateIpAddress.N", "Ipv4Prefix.N"},
		"AssignIpv6Addresses":        {"NetworkInterfaceId", "Ipv6AddressCount", "Ipv6Addresses.N", "Ipv6PrefixCount"},
		"UnassignIpv6Addresses":      {"NetworkInterfaceId", "Ipv6Addresses.N", "Ipv6Prefix.N"},
	}[action]
}

var number = regexp.MustCompile(`\.[0-9]+`)

func (p params) take(name string) string {
	v := p[name]
	delete(p, name)
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (p params) list(name string) (out []string) {
	for i := 1; ; i++ {
		key := fmt.Sprintf("%s.%d", name, i)
		if _, ok := p[key]; !ok {
			return out
		}
		out = append(out, p.take(key))
	}
}

func (p params) count(name string) (int, error) {
	v := p.take(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, name)
	}
	return n, nil
}

func (s *Server) call(action string, p params) (string, error) {
	p.take("Action")
	if v := p.take("Version"); v != version {
		return "", refuse("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", v)
	}
	actions := map[string]func(params) (string, error){
		"DescribeNetworkInterfaces": s.describe, "AssignPrivateIpAddresses": s.assignIPv4, "UnassignPrivateIpAddresses": s.unassignIPv4,
		"AssignIpv6Addresses": s.assignIPv6, "UnassignIpv6Addresses": s.unassignIPv6,
	}
	do, ok := actions[action]
	if !ok {
		s.unknown("action " + action)
		return "", refuse("InvalidAction", "The action %s is not valid for this web service.", action)
	}
	for name := range p {
		if name != "DryRun" && !slices.Contains(Parameters(action), number.ReplaceAllString(name, ".N")) {
			s.unknown("parameter " + name + " of " + action)
			return "", refuse("UnknownParameter", "The parameter %s is not recognized", name)
		}
	}
	if err := s.admit(action, p); err != nil {
		return "", err
	}
	out, err := do(p)
	for name := range p {
		if err == nil {
			s.unknown("parameter " + name + " of " + action)
			return "", refuse("UnknownParameter", "The parameter %s is not recognized", name)
		}
	}
	if s.dry { // it is about rights only, not about whether the call makes sense
		return "", refuse("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	return out, err
}

func (s *Server) admit(action string, p params) error {
	var on ENI
	if id := p["NetworkInterfaceId"]; len(id) > 0 {
		r := s.enis[id[0]]
		if r == nil {
			return refuse("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id[0])
		}
		on = r.ENI
	}
	if s.cfg.May != nil && !s.cfg.May(action, on) {
		return refuse("UnauthorizedOperation", "You are not authorized to perform this operation.")
	}
	dry := p.take("DryRun")
	if dry != "" && !s.cfg.DryRun && action != "DescribeNetworkInterfaces" {
		return refuse("UnknownParameter", "The parameter DryRun is not recognized")
	}
	if s.dry = dry == "true"; !s.dry && dry != "" && dry != "false" {
		return refuse("InvalidParameterValue", "Invalid value '%s' for DryRun. Must be 'true' or 'false'", dry)
	}
	return nil
}

func item(name, content string) string { return "<" + name + ">" + content + "</" + name + ">" }

func text(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
