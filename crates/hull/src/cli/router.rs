//! `hull router`.

use clap::Subcommand;
use hull_types::{
    error::Result,
    name::Name,
    network::Route,
    router::Router,
    wire::network::{RouterCreate, RouterGatewayRequest, RouterSubnetAdd, RouterUpdate},
};

use super::{
    Session,
    named::{Described, Filtered, Redescribed, Settings, settings, spaced},
    subnet::route,
};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List routers
    #[command(visible_alias = "ls")]
    List(Filtered),
    /// Show a router
    Show {
        /// Name or id
        router: String,
    },
    /// Create a router
    Create {
        /// Its name
        name: Name,
        #[command(flatten)]
        described: Described,
        /// Name or id of a subnet it joins (repeatable)
        #[arg(long = "subnet")]
        subnets: Vec<String>,
        /// Name or id of the external network it leads out by
        #[arg(long)]
        gateway: Option<String>,
        /// VMs without a floating IP do not go out
        #[arg(long, requires = "gateway")]
        no_snat: bool,
        /// A further route, RANGE=NEXT-HOP (repeatable)
        #[arg(long = "route", value_parser = route)]
        routes: Vec<Route>,
    },
    /// Change a router
    Update {
        /// Name or id
        router: String,
        #[command(flatten)]
        described: Redescribed,
        /// A further route, RANGE=NEXT-HOP; given ones replace all
        #[arg(long = "route", value_parser = route, conflicts_with = "no_routes")]
        routes: Option<Vec<Route>>,
        /// No further routes
        #[arg(long)]
        no_routes: bool,
    },
    /// Delete routers that join nothing
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        routers: Vec<String>,
    },
    /// Join subnets to a router
    AddSubnet {
        /// Name or id of the router
        router: String,
        /// Names or ids of the subnets
        #[arg(required = true)]
        subnets: Vec<String>,
    },
    /// Take subnets from a router
    RemoveSubnet {
        /// Name or id of the router
        router: String,
        /// Names or ids of the subnets
        #[arg(required = true)]
        subnets: Vec<String>,
    },
    /// Lead out by an external network
    SetGateway {
        /// Name or id of the router
        router: String,
        /// Name or id of the external network
        network: String,
        /// VMs without a floating IP do not go out
        #[arg(long)]
        no_snat: bool,
    },
    /// Lead nowhere outside
    ClearGateway {
        /// Name or id of the router
        router: String,
    },
}

impl Show for Router {
    const COLUMNS: &'static [&'static str] = &["name", "subnets", "gateway", "snat", "reason", "id"];
    fn row(&self) -> Vec<String> {
        let gateway = self.gateway.map(|gateway| gateway.network.to_string());
        vec![
            self.meta.name.to_string(),
            self.subnets.len().to_string(),
            gateway.unwrap_or_else(|| "-".to_owned()),
            if self.gateway.is_some_and(|gateway| gateway.snat) { "yes" } else { "no" }.to_owned(),
            self.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default(),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        page[1].1 = spaced(&self.subnets);
        page.push(("routes", spaced(self.routes.iter().map(|route| format!("{}={}", route.to, route.via)))));
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let routers = session.client.nouns("routers");
        let gateway = |network: String, no_snat: bool| RouterGatewayRequest { network, snat: !no_snat };
        match self {
            Self::List(filtered) => session.list(&routers.list::<Router>(&filtered.query()).await?).await,
            Self::Show { router } => session.one(&routers.show::<Router>(&router).await?).await,
            Self::Create { name, described, subnets, gateway: network, no_snat, routes } => {
                let (description, metadata, tags) = described.parts();
                let gateway = network.map(|network| gateway(network, no_snat));
                let body = RouterCreate { name, description, metadata, tags, subnets, gateway, routes };
                session.one(&routers.create::<_, Router>(&body).await?).await;
            }
            Self::Update { router, described, routes, no_routes } => {
                let (name, description, metadata, tags) = described.parts();
                let routes = if no_routes { Some(Vec::new()) } else { routes };
                let body = RouterUpdate { name, description, metadata, tags, gateway: None, routes };
                session.one(&routers.update::<_, Router>(&router, &body).await?).await;
            }
            Self::Delete { routers: names } => {
                for name in names {
                    routers.delete(&name).await?;
                }
            }
            Self::AddSubnet { router, subnets } => {
                for subnet in subnets {
                    routers.add::<_, Router>(&router, "subnets", &RouterSubnetAdd { subnet }).await?;
                }
                session.one(&routers.show::<Router>(&router).await?).await;
            }
            Self::RemoveSubnet { router, subnets } => {
                for subnet in subnets {
                    routers.remove(&router, "subnets", &subnet).await?;
                }
            }
            Self::SetGateway { router, network, no_snat } => {
                let body = RouterUpdate { gateway: Some(Some(gateway(network, no_snat))), ..RouterUpdate::default() };
                session.one(&routers.update::<_, Router>(&router, &body).await?).await;
            }
            Self::ClearGateway { router } => {
                let body = RouterUpdate { gateway: Some(None), ..RouterUpdate::default() };
                session.one(&routers.update::<_, Router>(&router, &body).await?).await;
            }
        }
        Ok(0)
    }
}
