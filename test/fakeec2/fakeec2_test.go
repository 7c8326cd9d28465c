package fakeec2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestStrict: what it does not know, and what is not signed, is refused as EC2
// does, and reported.
func TestStrict(t *testing.T) {
	const signed = "AWS4-HMAC-SHA256 Credential=AKID/20260102/eu-central-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, tt := range map[string]struct {
		authorization, body, want string
		unknown                   bool
	}{
		"unsigned":          {"", "Action=DescribeNetworkInterfaces&Version=2016-11-15", "<Code>AuthFailure</Code>", false},
		"other service":     {strings.Replace(signed, "/ec2/", "/sts/", 1), "Action=DescribeNetworkInterfaces&Version=2016-11-15", "<Code>AuthFailure</Code>", false},
		"unknown action":    {signed, "Action=TerminateInstances&Version=2016-11-15", "<Code>InvalidAction</Code>", true},
		"unknown version":   {signed, "Action=DescribeNetworkInterfaces&Version=2015-01-01", "<Code>NoSuchVersion</Code>", false},
		"unknown parameter": {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1&DryRun=true", "<Code>UnknownParameter</Code>", true},
		"unknown filter":    {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=color&Filter.1.Value.1=red", "<Code>InvalidParameterValue</Code>", false},
		"small page":        {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&MaxResults=2&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1", "<Code>InvalidParameterValue</Code>", false},
		"no such ENI":       {signed, "Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1", "<Code>InvalidNetworkInterfaceID.NotFound</Code>", false},
		"right":             {signed, "Action=DescribeNetworkInterfaces&Version=2016-11-15&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1", "<DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">", false},
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
