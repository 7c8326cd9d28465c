package fakeec2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const signed = "AWS4-HMAC-SHA256 Credential=AKID/20260102/eu-central-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date, " +
	"Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestStrict(t *testing.T) {
	for name, tt := range map[string]struct {
		authorization, body, want string
		unknown                   bool
	}{
		"unsigned": {"", "Action=DescribeNetworkInterfaces&Version=2016-11-15", "<Code>AuthFailure</Code>", false},
		"other service": {strings.Replace(signed, "/ec2/", "/sts/", 1), "Action=DescribeNetworkInterfaces&Version=2016-11-15",
			"<Code>AuthFailure</Code>", false},
		"unknown action":  {signed, "Action=TerminateInstances&Version=2016-11-15", "<Code>InvalidAction</Code>", true},
		"unknown version": {signed, "Action=DescribeNetworkInterfaces&Version=2015-01-01", "<Code>NoSuchVersion</Code>", false},
		"unknown parameter": {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1&Color=red",
			"<Code>UnknownParameter</Code>", true},
		"unknown filter": {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=color&Filter.1.Value.1=red",
			"<Code>InvalidParameterValue</Code>", false},
		"small page": {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&MaxResults=2&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1",
			"<Code>InvalidParameterValue</Code>", false},
		"no such ENI": {signed, "Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1",
			"<Code>InvalidNetworkInterfaceID.NotFound</Code>", false},
		"right": {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1",
			"<DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">", false},
	} {
		var unknown []string
		s := httptest.NewServer(New(Config{OnUnknown: func(r string) { unknown = append(unknown, r) }}))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/", strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", tt.authorization)
		resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		s.Close()
		if !strings.Contains(string(body), tt.want) || (len(unknown) > 0) != tt.unknown {
			t.Errorf("%s: %s (unknown: %q), want %s", name, body, unknown, tt.want)
		}
	}
}

func TestDryRun(t *testing.T) {
	subnet := Subnet{ID: "subnet-1", IPv4: netip.MustParsePrefix("10.0.1.0/24")}
	e := ENI{ID: "eni-1", SubnetID: subnet.ID, IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.200"), netip.MustParseAddr("10.0.1.201")}}
	s := New(Config{
		DryRun: true, Subnets: []Subnet{subnet}, ENIs: []ENI{e}, OnUnknown: func(r string) { t.Errorf("unknown: %s", r) },
		OnChange: func(e ENI) { t.Errorf("change: %v", e) },
		May:      func(action string, on ENI) bool { return on.ID == "eni-1" && action != "UnassignIpv6Addresses" },
	})
	for body, want := range map[string]string{
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1&DryRun=true":  "412 <Code>DryRunOperation</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=169.254.0.1&DryRun=true":    "412 <Code>DryRunOperation</Code>",
		"Action=UnassignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.1.201&DryRun=true":   "412 <Code>DryRunOperation</Code>",
		"Action=AssignIpv6Addresses&NetworkInterfaceId=eni-1&Ipv6AddressCount=1&DryRun=true":                     "412 <Code>DryRunOperation</Code>",
		"Action=UnassignIpv6Addresses&NetworkInterfaceId=eni-1&Ipv6Addresses.1=fe80::1&DryRun=true":              "403 <Code>UnauthorizedOperation</Code>",
		"Action=DescribeNetworkInterfaces&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1&DryRun=true": "403 <Code>UnauthorizedOperation</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-2&SecondaryPrivateIpAddressCount=1&DryRun=true": "400 <Code>" +
			"InvalidNetworkInterfaceID.NotFound</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1&DryRun=maybe": "400 <Code>InvalidParameterValue</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=169.254.0.1&DryRun=false":   "400 <Code>InvalidParameterValue</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.1.1":                   "400 <Code>InvalidParameterValue</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.1.201":                 "400 <Code>InvalidParameterValue</Code>",
		"Action=UnassignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=169.254.0.1&DryRun=false": "400 <Code>InvalidParameterValue</Code>",
		"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.1.7&Ipv4PrefixCount=1": "400 <Code>InvalidParameterCombination</Code>",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body+"&Version=2016-11-15"))
		r.Header.Set("Authorization", signed)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		status, code, _ := strings.Cut(want, " ")
		if strconv.Itoa(w.Code) != status || !strings.Contains(w.Body.String(), code) {
			t.Errorf("%s: %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	if diff := cmp.Diff(e, s.ENI("eni-1"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the ENI was changed (-want +got):\n%s", diff)
	}
}
