package iam

import (
	"fmt"
	"strings"
	"testing"
)

const network = "arn:aws:ec2:eu-central-1:123456789012:network-interface/eni-1"

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct{ statement, want string }{
		"right":              {`{"Sid":"A","Effect":"Allow","Action":["ec2:Describe*"],"Resource":"*","Condition":{"Null":{"aws:ResourceTag/a":false}}}`, ""},
		"unknown element":    {`{"Effect":"Allow","NotAction":"ec2:*","Resource":"*"}`, "NotAction"},
		"no effect":          {`{"Action":"ec2:*","Resource":"*"}`, "effect"},
		"no action":          {`{"Effect":"Allow","Resource":"*"}`, "no action"},
		"no service":         {`{"Effect":"Allow","Action":"Describe*","Resource":"*"}`, "action"},
		"no ARN":             {`{"Effect":"Allow","Action":"ec2:*","Resource":"network-interface/*"}`, "resource"},
		"unknown operator":   {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"StringEqual":{"ec2:Region":"a"}}}`, "operator"},
		"unknown set":        {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"ForSome:StringEquals":{"ec2:Region":"a"}}}`, "operator"},
		"unknown key":        {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"StringEquals":{"ec2:VpcID":"a"}}}`, "condition key"},
		"tag without a name": {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/":"a"}}}`, "condition key"},
		"null of a word":     {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"Null":{"aws:ResourceTag/a":"no"}}}`, "null"},
		"variable":           {`{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/a":"${aws:username}"}}}`, "variable"},
	} {
		_, err := Parse([]byte(`{"Version":"2012-10-17","Statement":[` + tt.statement + `]}`))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for _, document := range []string{"", "{}", `{"Version":"2008-10-17","Statement":[]}`, `{"Version":"2012-10-17","Statement":[]} {}`} {
		if _, err := Parse([]byte(document)); err == nil {
			t.Errorf("no error for %q", document)
		}
	}
}

func TestConditions(t *testing.T) {
	for condition, wants := range map[string]map[string]bool{ // "key=value,value;key=value"
		`"StringEquals":{"aws:ResourceTag/a":"1"}`: {"": false, "aws:ResourceTag/a=1": true, "aws:ResourceTag/a=2": false,
			"aws:RequestTag/a=1": false},
		`"StringEquals":{"aws:ResourceTag/a":["1","2"]}`:                   {"aws:ResourceTag/a=2": true, "aws:ResourceTag/a=3": false},
		`"StringEquals":{"aws:ResourceTag/a":"1","aws:ResourceTag/b":"1"}`: {"aws:ResourceTag/a=1": false, "aws:ResourceTag/a=1;aws:ResourceTag/b=1": true},
		`"StringEquals":{"aws:ResourceTag/A":"1"}`:                         {"aws:ResourceTag/a=1": true},
		`"StringEqualsIfExists":{"ec2:CreateAction":"RunInstances"}`: {"": true, "ec2:CreateAction=RunInstances": true,
			"ec2:CreateAction=CreateNetworkInterface": false},
		`"StringNotEquals":{"aws:ResourceTag/a":"1"}`: {"": true, "aws:ResourceTag/a=1": false, "aws:ResourceTag/a=2": true},
		`"StringLike":{"aws:RequestTag/a":"x*z?"}`: {"": false, "aws:RequestTag/a=xyzz": true, "aws:RequestTag/a=xz": false,
			"aws:RequestTag/a=xzz": true},
		`"Null":{"aws:RequestTag/a":"false"}`: {"": false, "aws:RequestTag/a=": true},
		`"Null":{"aws:RequestTag/a":"true"}`:  {"": true, "aws:RequestTag/a=1": false},
		`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`: {"": true, "aws:TagKeys=a": true, "aws:TagKeys=a,b": true,
			"aws:TagKeys=a,c": false},
		`"ForAnyValue:StringEquals":{"aws:TagKeys":["a","b"]}`: {"": false, "aws:TagKeys=c": false, "aws:TagKeys=a,c": true},
		`"ForAllValues:StringLike":{"aws:TagKeys":"multi/*"}`:  {"aws:TagKeys=multi/a,multi/b": true, "aws:TagKeys=multi/a,b": false},
		`"ArnEquals":{"ec2:Vpc":"arn:aws:ec2:*:*:vpc/vpc-1"}`: {"ec2:Vpc=arn:aws:ec2:eu-central-1:1:vpc/vpc-1": true,
			"ec2:Vpc=arn:aws:ec2:eu-central-1:1:vpc/vpc-2": false},
		`"StringEquals":{"ec2:Region":"a"},"Null":{"aws:TagKeys":"true"}`: {"ec2:Region=a": true, "ec2:Region=a;aws:TagKeys=b": false},
	} {
		p := policy(t, fmt.Sprintf(`{"Effect":"Allow","Action":"ec2:DeleteNetworkInterface","Resource":"*","Condition":{%s}}`, condition))
		for keys, want := range wants {
			r := Request{Action: "ec2:DeleteNetworkInterface", Resource: network, Keys: map[string][]string{}}
			for _, pair := range strings.FieldsFunc(keys, func(r rune) bool { return r == ';' }) {
				k, v, _ := strings.Cut(pair, "=")
				r.Keys[k] = strings.Split(v, ",")
			}
			if why := p.Decide(r); (why == Allowed) != want {
				t.Errorf("%s with %q: %q, want allowed %v", condition, keys, why, want)
			}
		}
	}
}

func policy(t *testing.T, statements string) *Policy {
	t.Helper()
	p, err := Parse([]byte(`{"Version":"2012-10-17","Statement":[` + statements + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestActionsAndResources(t *testing.T) {
	const allow = `{"Effect":"Allow","Action":"%s","Resource":"%s"}`
	for _, tt := range []struct {
		action, resource string
		want             bool
	}{
		{"*", "*", true}, {"ec2:*", "*", true}, {"ec2:Delete*", "*", true}, {"EC2:deletenetworkinterface", "*", true}, {"ec2:Detach*", "*", false},
		{"s3:*", "*", false},
		{"ec2:*", network, true}, {"ec2:*", "arn:aws:ec2:*:*:network-interface/*", true}, {"ec2:*", "arn:aws:ec2:*:*:instance/*", false},
		{"ec2:*", "arn:aws:ec2:us-east-1:*:network-interface/*", false}, {"ec2:*", "arn:aws:ec2:*:network-interface/*:*", false}, {"ec2:*",
			"arn:aws-cn:ec2:*:*:*", false},
		{"ec2:*", "arn:aws:ec2:*:*:network-interface/eni-2", false},
	} {
		p := policy(t, fmt.Sprintf(allow, tt.action, tt.resource))
		if why := p.Decide(Request{Action: "ec2:DeleteNetworkInterface", Resource: network}); (why == Allowed) != tt.want {
			t.Errorf("%s on %s: %q, want allowed %v", tt.action, tt.resource, why, tt.want)
		}
	}
	p := policy(t, fmt.Sprintf(allow, "ec2:*",
		"*")+`,{"Effect":"Deny","Action":"ec2:Delete*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/a":"1"}}}`)
	for tag, want := range map[string]bool{"1": false, "2": true} {
		r := Request{Action: "ec2:DeleteNetworkInterface", Resource: network, Keys: map[string][]string{"aws:ResourceTag/a": {tag}}}
		if why := p.Decide(r); (why == Allowed) != want || !want && !strings.Contains(why, "explicit deny") {
			t.Errorf("tag %s: %q, want allowed %v", tag, why, want)
		}
	}
}
