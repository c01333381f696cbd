//! The parameters of the methods that rmcp knows, and the reasons why parameters do not fit.

use std::{borrow::Cow, collections::BTreeMap};

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelTaskParams, ClientRequest, GetPromptRequestParams,
    GetSkillRequestParams, GetTaskParams, InitializeRequestParams, PaginatedRequestParams,
    ReadResourceDirectoryRequestParams, ReadResourceRequestParams, SubscribeRequestParams,
    SubscriptionsListenRequestParams, UnsubscribeRequestParams, UpdateTaskParams,
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{error::Category, value::RawValue};

use super::text::{reason, shortened};

/// The method whose parameters are parsed here and not by rmcp.
pub(super) const CALL_METHOD: &str = "tools/call";

/// Why parameters do not fit their method.
pub(super) enum ParamsError {
    /// They cannot be parsed as JSON, for example because of their depth.
    Syntax(String),
    /// They do not fit the method. The text has the member, its value and what to give.
    Params(String),
}

/// Parses the parameters of `tools/call`, with `_meta` where rmcp's own parser puts it.
pub(super) fn call_tool(params: Option<&str>) -> Result<CallToolRequest, ParamsError> {
    let Some(json) = params else {
        return Err(ParamsError::Params(
            "params is missing: give {\"name\": \"<tool>\", \"arguments\": {…}}".to_owned(),
        ));
    };
    // Arrays must be refused here: serde would accept one as the members in their order.
    if !json.starts_with('{') {
        return Err(not_an_object("params", json));
    }
    match serde_json::from_str::<CallToolRequestParams>(json) {
        Ok(mut params) => {
            let meta = params.meta.take();
            let mut request = CallToolRequest::new(params);
            if let Some(meta) = meta {
                request.extensions.insert(meta);
            }
            Ok(request)
        }
        Err(error) if error.classify() == Category::Data => Err(ParamsError::Params(call_tool_problem(json, &error))),
        Err(error) => Err(ParamsError::Syntax(reason(&error))),
    }
}

fn call_tool_problem(json: &str, error: &serde_json::Error) -> String {
    let members = members(json);
    let member = |name: &str| members.get(name).map(|value| value.get());
    match member("name") {
        None => return "params.name is missing: give the name of a tool".to_owned(),
        Some(name) if !name.starts_with('"') => {
            let shown = shortened(name);
            return format!("params.name is {shown}: give the name of a tool, a string");
        }
        Some(_) => {}
    }
    for name in ["arguments", "_meta"] {
        if let Some(value) = member(name)
            && !value.starts_with('{')
            && value != "null"
        {
            return format!("{name} is {}: give a JSON object", shortened(value));
        }
    }
    format!("params do not fit {CALL_METHOD}: {}", reason(error))
}

/// Returns why `params` do not fit `method`; nothing if rmcp does not know the method.
pub(super) fn check(method: &str, params: Option<&str>) -> Option<ParamsError> {
    let check = checker(method)?;
    let json = params.unwrap_or("{}");
    if !json.starts_with('{') {
        return Some(not_an_object("params", json));
    }
    if let Some(meta) = members(json).get("_meta").map(|meta| meta.get())
        && !meta.starts_with('{')
        && meta != "null"
    {
        return Some(not_an_object("_meta", meta));
    }
    let why = match check(json) {
        Ok(()) if params.is_none() => "they are missing".to_owned(),
        Ok(()) => "they are not those of the method".to_owned(),
        Err(error) => reason(&error),
    };
    Some(ParamsError::Params(format!("params do not fit {method}: {why}")))
}

/// Returns why the parameters of a list do not fit. rmcp drops such parameters, so that the client would
/// get the first page repeatedly.
pub(super) fn check_list(request: &ClientRequest, params: Option<&str>) -> Option<ParamsError> {
    let is_left_out = match request {
        ClientRequest::ListToolsRequest(request) => request.params.is_none(),
        ClientRequest::ListPromptsRequest(request) => request.params.is_none(),
        ClientRequest::ListResourcesRequest(request) => request.params.is_none(),
        ClientRequest::ListResourceTemplatesRequest(request) => request.params.is_none(),
        ClientRequest::ListSkillsRequest(request) => request.params.is_none(),
        _ => false,
    };
    match params {
        Some(json) if is_left_out && json != "null" => check(request.method(), params),
        _ => None,
    }
}

fn not_an_object(name: &str, json: &str) -> ParamsError {
    ParamsError::Params(format!("{name} is {}: give a JSON object", shortened(json)))
}

/// Returns the members of a JSON object; none if it cannot be parsed.
fn members(json: &str) -> BTreeMap<Cow<'_, str>, &RawValue> {
    serde_json::from_str(json).unwrap_or_default()
}

type Checker = fn(&str) -> Result<(), serde_json::Error>;

/// Returns the parser of the parameters of a method that rmcp knows. Completion is left out: our servers do not declare
/// it, so that the reply is always that the method is unknown.
fn checker(method: &str) -> Option<Checker> {
    Some(match method {
        "initialize" => fits::<InitializeRequestParams>,
        "server/discover" => fits::<IgnoredAny>,
        "logging/setLevel" => fits_set_level,
        "prompts/get" => fits::<GetPromptRequestParams>,
        "resources/read" => fits::<ReadResourceRequestParams>,
        "resources/directory/read" => fits::<ReadResourceDirectoryRequestParams>,
        "resources/subscribe" => fits::<SubscribeRequestParams>,
        "resources/unsubscribe" => fits::<UnsubscribeRequestParams>,
        "subscriptions/listen" => fits::<SubscriptionsListenRequestParams>,
        "tasks/get" => fits::<GetTaskParams>,
        "tasks/update" => fits::<UpdateTaskParams>,
        "tasks/cancel" => fits::<CancelTaskParams>,
        "skills/get" => fits::<GetSkillRequestParams>,
        "ping" | "prompts/list" | "resources/list" | "resources/templates/list" | "skills/list" | "tools/list" => {
            fits::<PaginatedRequestParams>
        }
        _ => return None,
    })
}

fn fits<P: DeserializeOwned>(json: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<P>(json).map(drop)
}

#[expect(deprecated, reason = "clients of the older protocol generation still send it")]
fn fits_set_level(json: &str) -> Result<(), serde_json::Error> {
    fits::<rmcp::model::SetLevelRequestParams>(json)
}
